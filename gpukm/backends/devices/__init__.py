"""One device through each library of arrays that can hold the data of a GPU; a library loads when it is used."""
